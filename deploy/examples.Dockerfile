# The example application with everything that it needs: its worker (run, drain, run --wake), and as
# another entry point its API. deploy/compose.yaml runs both. An application of yours: the
# Dockerfile at the top of the repository, and your code on top of it.

FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /opt/convolab
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/convolab/bin/pip install --no-cache-dir --disable-pip-version-check '.[examples]'

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 convolab \
    && install --directory --owner convolab /lessons
COPY --from=build /opt/convolab /opt/convolab
COPY examples /app/examples
# The base image has no byte code of the standard library, and this one writes none when it runs:
# without this, every cold start would compile what it imports, which takes seconds.
RUN python -m compileall -q -x '/(ensurepip|idlelib|lib2to3|site-packages|tkinter|turtledemo)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" /app/examples
ENV PATH=/opt/convolab/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["convolab-worker"]
CMD ["run"]
