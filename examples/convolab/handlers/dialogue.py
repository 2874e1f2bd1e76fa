"""``generate-dialogue`` on ``dialogue-generation``: a dialogue about a text."""

from __future__ import annotations

import os

from convolab_worker import HandlerRegistry, Job, errors
from examples.convolab import written
from examples.convolab.composer import compose
from examples.convolab.endpoint import Endpoint
from examples.convolab.jobs import GENERATE_DIALOGUE
from examples.convolab.model import DEFAULT_SPEAKERS, Dialogue, Outline
from examples.convolab.payloads import DialogueRequest, DialogueResult
from examples.convolab.sources import SourceText, source_text
from examples.convolab.store import Store

handlers = HandlerRegistry()


@handlers.dialogue(GENERATE_DIALOGUE, timeout=300, concurrency=4)
async def generate_dialogue(job: Job[DialogueRequest]) -> DialogueResult:
    """Write or compose a dialogue, and save it."""
    request = job.data
    try:
        source = source_text(request.episodeId)
    except LookupError as error:
        msg = f"episodeId: {error}"
        raise errors.UnrecoverableError(msg) from error
    await job.progress(10)
    endpoint = Endpoint.from_env(os.environ, "OPENAI_MODEL")
    outline = _outline(request)
    if endpoint is None:
        dialogue = _composed(source, outline)
    else:
        key = job.step_key("dialogue")
        answer = await job.step("dialogue", _asked, endpoint, source, outline, key)
        dialogue = written.parse(answer, source, outline, made_by=endpoint.model)
    await job.progress(80)
    # A job's id may have characters that no folder's name should have.
    dialogue_id = request.dialogueId or "".join(c if c.isalnum() else "-" for c in job.id)
    file = Store.from_env().save_dialogue(dialogue_id, dialogue)
    job.log.info("dialogue.made", lines=len(dialogue.lines), made_by=dialogue.made_by)
    await job.progress(100)
    return {
        "dialogueId": dialogue_id,
        "lines": len(dialogue.lines),
        "exchanges": len(dialogue.exchanges()),
        "madeBy": dialogue.made_by,
        "file": file,
    }


def _outline(request: DialogueRequest) -> Outline:
    return Outline(
        language=request.language,
        level=request.jlptLevel,
        length=request.dialogueLength,
        variation_count=request.variationCount,
        speakers=request.speakers or DEFAULT_SPEAKERS[request.language],
    )


def _composed(source: SourceText, outline: Outline) -> Dialogue:
    """Compose offline; what the text can't give, it can't give at another attempt either."""
    try:
        return compose(source, outline)
    except ValueError as error:
        raise errors.UnrecoverableError(str(error)) from error


async def _asked(endpoint: Endpoint, source: SourceText, outline: Outline, key: str) -> str:
    """Ask a language model, which costs money: a step, whose answer is recorded with the job.

    An answer that won't do is not: it fails this attempt only.
    """
    answer = await endpoint.chat(written.messages(source, outline), key=key)
    written.parse(answer, source, outline, made_by=endpoint.model)
    return answer
