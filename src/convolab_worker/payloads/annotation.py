"""Finds out what a handler's annotations say of its payload and its result."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def payload_annotation(function: Callable[..., Any], job_type: type) -> object:
    """Give the T of the ``Job[T]`` annotation of a handler's first parameter, or Any.

    ``job_type`` is the class Job. An annotation that can't be resolved, one that is not a
    Job, and a function that can't be called with a job alone raise ConfigurationError.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return Any
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        msg = f"{name}: expected a first parameter that takes the job, got none"
        raise ConfigurationError(msg)
    if more := _further_parameters(function):
        msg = f"{name}: expected one parameter, the job, got {more} as well: the data is job.data"
        raise ConfigurationError(msg)
    if parameters[0].annotation is inspect.Parameter.empty:
        return Any
    annotation = _resolved(parameters[0].annotation, function, job_type)
    annotation = _without_extras(annotation)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is job_type:
        return Any if isinstance(arguments[0], typing.TypeVar) else arguments[0]
    if (
        annotation in (job_type, Any, object)
        or isinstance(annotation, typing.TypeVar)
        or getattr(annotation, "_is_protocol", False)
    ):
        return Any
    msg = (
        f"{name}: {parameters[0].name} is annotated as {annotation_name(annotation)}; "
        f"expected {job_type.__name__}[...]: the data is its .data"
    )
    raise ConfigurationError(msg)


def _further_parameters(function: Callable[..., Any]) -> str:
    """Name the parameters behind the first that a call has to give.

    A wrapper may give the function that it wraps more than it takes itself.
    """
    _, *others = inspect.signature(function, follow_wrapped=False).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ", ".join(
        each.name
        for each in others
        if each.default is inspect.Parameter.empty and each.kind not in optional
    )


def result_annotation(function: Callable[..., Any], job_type: type) -> object:
    """Give the return annotation of a handler, without the Awaitable around it, or Any.

    ``job_type`` is the class Job. An annotation that can't be resolved raises ConfigurationError.
    """
    try:
        annotation = inspect.signature(function).return_annotation
    except ValueError:
        return Any
    if annotation is inspect.Signature.empty:
        return Any
    annotation = _resolved(annotation, function, job_type)
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Awaitable):
        return typing.get_args(annotation)[-1]
    return Any if isinstance(annotation, typing.TypeVar) else annotation


def _resolved(annotation: Any, function: Any, job_type: type) -> Any:
    """Resolve one annotation as the function's author meant it, the others left alone."""
    function = _underlying(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    names = {
        # Linters move an import that only annotations use below `if TYPE_CHECKING`.
        job_type.__name__: job_type,
        **function.__globals__,
        **enclosing_names(function.__qualname__, function.__module__),
        **{name: cell.cell_contents for name, cell in cells if _filled(cell)},
        **{param.__name__: param for param in getattr(function, "__type_params__", ())},
    }
    holder = types.SimpleNamespace(__annotations__={"job": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["job"]
    except Exception as error:
        msg = (
            f"{function.__qualname__}: can't resolve the annotation {annotation!r}: {error}; "
            f"expected names that {function.__module__} has at run time, "
            "not only under TYPE_CHECKING"
        )
        raise ConfigurationError(msg) from error


def layers(function: Callable[..., Any]) -> Iterator[Any]:
    """The function, and those that it wraps, if it is a partial, decorated or a callable object."""
    layer: Any = function
    while layer is not None:
        yield layer
        if isinstance(layer, functools.partial):
            layer = layer.func
        elif inspect.isroutine(layer) or inspect.isclass(layer):
            layer = getattr(layer, "__wrapped__", None)
        else:
            layer = getattr(layer, "__wrapped__", None) or getattr(type(layer), "__call__", None)  # noqa: B004


def _underlying(function: Any) -> Any:
    """Find the function that was written, whatever is around it."""
    *_, innermost = layers(function)
    if not hasattr(innermost, "__code__"):
        msg = f"{function!r}: expected a function, or an object with a __call__ of its own"
        raise ConfigurationError(msg)
    return innermost


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def is_anything(annotation: object) -> bool:
    """Say whether every value fits an annotation, so that there is nothing to check."""
    return any(annotation is anything for anything in (Any, object, inspect.Parameter.empty))


def annotation_name(annotation: object) -> str:
    """Write an annotation as its author would have."""
    if annotation in (None, type(None), Any):
        return "Any" if annotation is Any else "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__qualname__.rpartition(".<locals>.")[2]
    return str(annotation)


def enclosing_names(qualname: str, module: str | None) -> dict[str, Any]:
    """Give the local names of the running functions in which ``qualname`` was defined.

    Text annotations are looked up in their module only; this finds the classes that a
    test or a factory function has defined next to its handler.
    """
    parts = qualname.split(".<locals>.")
    outer = {".<locals>.".join(parts[:end]) for end in range(1, len(parts))}
    names: dict[str, Any] = {}
    frame = inspect.currentframe() if outer else None
    while frame is not None:
        if frame.f_code.co_qualname in outer and frame.f_globals.get("__name__") == module:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def resolve_local_classes(annotation: Any, seen: set[Any] | None = None) -> None:
    """Resolve the annotations of classes that running functions have defined, in the classes.

    msgspec and pydantic look text annotations up in a class's module only. Raises
    ConfigurationError for a name that is not there at run time.
    """
    seen = set() if seen is None else seen
    for part in typing.get_args(annotation):
        resolve_local_classes(part, seen)
    if not isinstance(annotation, type) or "<locals>" not in annotation.__qualname__:
        return
    if annotation in seen:
        return
    seen.add(annotation)
    names = {
        **enclosing_names(annotation.__qualname__, annotation.__module__),
        annotation.__name__: annotation,
    }
    try:
        hints = _resolved_class(annotation, names)
    except Exception as error:
        msg = (
            f"data: can't resolve the annotations of "
            f"{annotation.__module__}.{annotation.__qualname__}: {error}; "
            "expected names that its module has at run time"
        )
        raise ConfigurationError(msg) from error
    for hint in hints.values():
        resolve_local_classes(hint, seen)


def _resolved_class(cls: Any, names: dict[str, Any]) -> dict[str, Any]:
    if hasattr(cls, "__pydantic_complete__"):
        if not cls.__pydantic_complete__:
            cls.model_rebuild(_types_namespace=names)
        return {}
    if not dataclasses.is_dataclass(cls) and not hasattr(cls, "__required_keys__"):
        return {}
    hints = typing.get_type_hints(cls, localns=names, include_extras=True)
    cls.__annotations__ = {name: hints[name] for name in cls.__annotations__}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        field.type = hints[field.name]
    return hints


def fits(given: Any, expected: Any) -> bool:
    """Say whether a value of the type ``given`` may stand where ``expected`` is.

    What can't be judged here fits: type checkers know more of types.
    """
    given, expected = _without_extras(given), _without_extras(expected)
    if any(kind in (Any, object) for kind in (given, expected)) or given == expected:
        return True
    if _is_union(given):
        return all(fits(member, expected) for member in typing.get_args(given))
    if _is_union(expected):
        return any(fits(given, member) for member in typing.get_args(expected))
    if typing.get_origin(given) is typing.Literal:
        return all(fits(type(value), expected) for value in typing.get_args(given))
    return _class_fits(given, expected)


def _class_fits(given: Any, expected: Any) -> bool:
    given_class = typing.get_origin(given) or given
    expected_class = typing.get_origin(expected) or expected
    if not isinstance(given_class, type) or not isinstance(expected_class, type):
        return True
    if typing.is_typeddict(given_class) or typing.is_typeddict(expected_class):
        return False  # these types are unequal, and issubclass refuses them
    if given_class is not expected_class:
        return issubclass(given_class, expected_class)
    parts = zip(typing.get_args(given), typing.get_args(expected), strict=False)
    return all(fits(part, other) for part, other in parts)


def _without_extras(annotation: Any) -> Any:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = annotation.__origin__
    return type(None) if annotation is None else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def has_own_init(cls: Any) -> bool:
    """Say whether a dataclass has an ``__init__`` of its author's, which no library calls."""
    code = getattr(cls.__init__, "__code__", None)
    # The code of a generated one is compiled from text without a file.
    return code is None or code.co_filename != "<string>"


def is_more_than_its_fields(cls: Any) -> bool:
    """Say whether a dataclass is made of more, or of less, than a value for each of its fields."""
    is_plain = dataclasses.is_dataclass(cls)
    return is_plain and (has_own_init(cls) or not all(f.init for f in dataclasses.fields(cls)))
