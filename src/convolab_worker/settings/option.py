"""What an option is, and how the values of many are held: checked once, and never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast, dataclass_transform

from convolab_worker.settings.checking import check_values
from convolab_worker.settings.environment import VARIABLES_START
from convolab_worker.settings.kinds import show, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.settings.kinds import Kind

_T = TypeVar("_T")


class Option:
    """An option: its variable, what it may be, what it means, and its default."""

    __slots__ = ("default", "help", "kind", "variable")

    def __init__(self, default: Any, kind: Kind, help: str, variable: str | None) -> None:  # noqa: A002
        self.default, self.kind, self.help = default, kind, help
        self.variable = variable or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.variable = self.variable or VARIABLES_START + name.upper()

    @property
    def default_text(self) -> str:
        """The default as text of a variable, or ``unset``."""
        return "unset" if self.default is None else self.kind.text(self.default)

    def read(self, text: str) -> Any:
        """Return the value that the text of a variable or a flag means.

        Raises ``ValueError``, which says what was expected, for text that can't be read and for
        values outside the range.
        """
        return self.check(self.kind.parse(text))

    def check(self, value: Any) -> Any:
        """Return the value in its own type. Raises ``ValueError``, which says what was expected."""
        return None if value is None and self.default is None else self.kind.check(value)

    def show(self, value: Any) -> str:
        """Return the value as text for a message or a table, with secrets masked."""
        return show(self.kind, value)


def option(default: _T, kind: Kind, help: str, variable: str | None = None) -> _T:  # noqa: A002
    """Describe a field; its variable is CONVOLAB_ and the field's name, where none is given."""
    return cast("_T", Option(default, kind, help, variable))


def options_of(fields: type) -> Mapping[str, Option]:
    """Return the options of a class by the names of its fields, in the order of the fields."""
    return {name: field for name, field in vars(fields).items() if isinstance(field, Option)}


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Frozen:
    """Holds the values of a subclass's options; they are checked once, and never changed.

    A type checker sees a frozen dataclass. Its fields are the options, and the attributes that a
    subclass names in ``_beside``. It is none: Python takes 3 ms of every start to make a dataclass
    of so many fields.
    """

    _options: ClassVar[Mapping[str, Option]] = {}
    _beside: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._options = {**cls._options, **options_of(cls)}

    def __init__(self, **given: Any) -> None:
        more = {name: given.pop(name, getattr(type(self), name)) for name in self._beside}
        if unknown := given.keys() - self._options.keys():
            near = suggestion(min(unknown), [*self._options])
            what = f"an unexpected keyword argument {min(unknown)!r}{near}"
            msg = f"{type(self).__name__}() got {what}"
            raise TypeError(msg)
        values = {name: option.default for name, option in self._options.items()}
        self.__dict__.update(values, **check_values(self._options, given), **more)

    def _compared(self) -> tuple[Any, ...]:
        return tuple(value for name, value in self.__dict__.items() if name != "remarks")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frozen):
            return NotImplemented
        return type(self) is type(other) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self.__delattr__(name)

    def __delattr__(self, name: str) -> NoReturn:
        msg = f"{name!r} can't be changed: replace() returns settings with another value"
        raise AttributeError(msg)
