"""Pictures on ``image-generation``, of two kinds, told apart by the job's name.

``generate`` makes a card for each exchange of a dialogue; ``generate-script-images`` makes its
cover, and a page for each sentence of the text behind it.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from functools import partial

from PIL import Image

from convolab_worker import HandlerRegistry, Job, errors
from examples.convolab.cards import cover, exchange_card, script_page
from examples.convolab.endpoint import Endpoint, EndpointError
from examples.convolab.fonts import missing
from examples.convolab.jobs import GENERATE_CARDS, GENERATE_SCRIPT_IMAGES
from examples.convolab.model import Dialogue
from examples.convolab.payloads import ImageRequest, ImageResult
from examples.convolab.sources import source_text
from examples.convolab.store import Store

handlers = HandlerRegistry()


@handlers.image(GENERATE_CARDS, timeout=600, concurrency=2)
async def generate_cards(job: Job[ImageRequest]) -> ImageResult:
    """Make a card for each exchange of the dialogue, ``imageCount`` at most."""
    store = Store.from_env()
    dialogue = _dialogue(store, job.data["dialogueId"])
    exchanges = dialogue.exchanges()
    said = "".join(line.phrase.text for line in dialogue.lines)
    if absent := missing(said):
        job.log.warning("image.characters_left_out", characters=absent)
    prompts = [" ".join(line.phrase.translation for line in exchange) for exchange in exchanges]
    drawings: list[Drawing] = [
        partial(exchange_card, dialogue, number) for number in range(len(exchanges))
    ]
    return await _make(job, store, "cards", prompts, drawings)


@handlers.image(GENERATE_SCRIPT_IMAGES, timeout=600, concurrency=2)
async def generate_script_images(job: Job[ImageRequest]) -> ImageResult:
    """Make the cover, then a page for each sentence, ``imageCount`` pictures at most."""
    store = Store.from_env()
    dialogue = _dialogue(store, job.data["dialogueId"])
    source = source_text(dialogue.source)
    sentences = source.sentences()
    prompts = [f"The cover of a picture book: {source.title['en'][0]}", *sentences]
    drawings: list[Drawing] = [partial(cover, dialogue, source)]
    drawings += [partial(script_page, source, number) for number in range(len(sentences))]
    return await _make(job, store, "script", prompts, drawings)


Drawing = Callable[[], bytes]


def _dialogue(store: Store, dialogue_id: str) -> Dialogue:
    """Return the dialogue to illustrate; without it, no further attempt helps."""
    try:
        return store.dialogue(dialogue_id)
    except (LookupError, ValueError) as error:
        raise errors.UnrecoverableError(str(error)) from error


async def _make(
    job: Job[ImageRequest],
    store: Store,
    folder: str,
    prompts: list[str],
    drawings: list[Drawing],
) -> ImageResult:
    """Ask for or draw the pictures one by one, save them, and drop those of an earlier run."""
    wanted = job.data.get("imageCount", len(drawings))
    if wanted < 1:
        msg = f"imageCount is {wanted}: expected 1 or more"
        raise errors.UnrecoverableError(msg)
    count = min(wanted, len(drawings))
    endpoint = Endpoint.from_env(os.environ, "OPENAI_IMAGE_MODEL")
    owner = job.data["dialogueId"]
    files: list[str] = []
    for number in range(count):
        await job.progress(10 + round(90 * number / count))
        place = f"{folder}/{number + 1:02}.png"
        if endpoint is None:
            picture = await asyncio.to_thread(drawings[number])
            files.append(store.write(owner, place, picture))
        else:
            key, prompt = job.step_key(place), _prompt(prompts[number])
            painted = partial(_painted, endpoint, prompt, key, store, owner)
            files.append(await job.step(place, painted, place))
    store.keep_only(owner, folder, {f"{number + 1:02}.png" for number in range(count)})
    made_by = "drawn with Pillow" if endpoint is None else endpoint.model
    job.log.info("images.made", count=count, made_by=made_by)
    await job.progress(100)
    return {"files": files, "madeBy": made_by}


def _prompt(about: str) -> str:
    return f"A warm, simple children's book illustration, without any text in it: {about}"


async def _painted(
    endpoint: Endpoint, prompt: str, key: str, store: Store, owner: str, place: str
) -> str:
    """Ask for a picture, which costs money: a step, which stores it and returns its address."""
    return store.write(owner, place, _as_png(await endpoint.picture(prompt, key=key)))


def _as_png(picture: bytes) -> bytes:
    """Turn what the endpoint sent into a PNG; EndpointError if it is not a picture."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            out = io.BytesIO()
            image.convert("RGB").save(out, "PNG")
    except OSError as error:
        msg = f"the endpoint sent {len(picture)} bytes that are not a picture"
        raise EndpointError(msg) from error
    return out.getvalue()
