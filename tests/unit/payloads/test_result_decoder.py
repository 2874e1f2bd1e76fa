"""Results are read by the names by which they were written, whatever a model reads by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pydantic
import pytest
from pydantic import ConfigDict, Field

from convolab_worker.errors import InvalidResult
from convolab_worker.payloads.decode import result_decoder
from convolab_worker.payloads.encode import encode_json

T = TypeVar("T")


class Two(pydantic.BaseModel):
    value: int = Field(validation_alias="in", serialization_alias="out")


class Forbidding(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    two: Two = Field(serialization_alias="theTwo")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.two.value * 2


class Tree(pydantic.BaseModel):
    name: str = Field(validation_alias="in", serialization_alias="out")
    parts: list[Tree] = []


@pydantic.dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    two: Two
    more: int = Field(default=0, validation_alias="in", serialization_alias="out")


class Box(pydantic.BaseModel, Generic[T]):
    item: T


class Root(pydantic.RootModel[dict[str, Two]]):
    """A model that is a dict."""


class Checked(pydantic.BaseModel):
    value: int = Field(validation_alias="in", serialization_alias="out")

    @pydantic.field_validator("value")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            msg = "must be even"
            raise ValueError(msg)
        return value


@dataclass
class Plain:
    two: Two


TWO = Two.model_validate({"in": 4})
VALUES: list[tuple[Any, Any]] = [
    (Two, TWO),
    (list[Two], [TWO]),
    (Two | None, None),
    (Forbidding, Forbidding(two=TWO)),
    (Tree, Tree.model_validate({"in": "a", "parts": [{"in": "b"}]})),
    (Slotted, Slotted(TWO, **{"in": 3})),
    (Box[Two], Box[Two](item=TWO)),
    (Root, Root({"a": TWO})),
    (Checked, Checked.model_validate({"in": 2})),
    (Plain, Plain(TWO)),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_what_was_written_is_read_as_what_it_was(annotation: Any, value: Any) -> None:
    read = result_decoder(annotation)(encode_json(value).encode())

    assert read == value
    assert type(read) is type(value)


def test_a_model_still_reads_its_own_names() -> None:
    """Reading results does not change how the class reads anything else."""
    result_decoder(list[Two])

    assert Two.model_validate({"in": 4}) == TWO
    with pytest.raises(pydantic.ValidationError):
        Two.model_validate({"out": 4})


def test_validators_are_called() -> None:
    """And all problems are told, each with its place."""
    with pytest.raises(
        InvalidResult, match=r"^result\[0\].out: must be even, .*; result\[1\].out:"
    ):
        result_decoder(list[Checked])(b'[{"out": 1}, {}]')
