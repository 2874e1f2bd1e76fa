# The worker without an application: build your own image FROM it, copy your code to /app, and set
# CONVOLAB_APP or pass `run --app MODULE:REGISTRY`.

FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /opt/convolab
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/convolab/bin/pip install --no-cache-dir --disable-pip-version-check . \
    # The last stage installs nothing, so pip need not be in it.
    && /opt/convolab/bin/pip uninstall --yes pip

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 convolab
COPY --from=build /opt/convolab /opt/convolab
# The base image has no byte code of the standard library, and this one writes none when it runs:
# without this, every cold start would compile what it imports, which takes seconds.
RUN python -m compileall -q -x '/(ensurepip|idlelib|lib2to3|site-packages|tkinter|turtledemo)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/convolab/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001
# The wake server, with `run --wake`.
EXPOSE 8080
# SIGTERM: running jobs get CONVOLAB_SHUTDOWN_GRACE to finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["convolab-worker"]
CMD ["run"]
