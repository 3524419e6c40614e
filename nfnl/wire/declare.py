"""Declaring messages: one class is the definition of a message for every machine that deals with it.

    class Packet(Message, subsystem=QUEUE, type=0, direction=Direction.FROM_KERNEL):
        header: PacketHeader = attr(1, "NFQA_PACKET_HDR")
        mark: Be32 | None = attr(3, "NFQA_MARK", doc="packet mark")

To a person and a type checker it is an immutable record; `nfnl.wire.reference` and `nfnl.wire.compiled` derive codecs from it,
`nfnl.wire.describe` its documentation, `nfnl.testing.strategies` its test data, the fake kernel its attribute policies.

The order of declaration is the order on the wire of what is built. Numbers are written, never implied by position.

Messages that share attributes inherit them from a `View` that declares them once; each may have an order of its
own, in which the rest stands last:

    class DestroyedFlow(FlowAttributes, Message, ..., wire_order="original reply id"):
        ...
"""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Self, cast, dataclass_transform

from nfnl.wire.constants import NLMSG_HDRLEN, SubsystemId
from nfnl.wire.header import NATIVE, ByteOrder, NetlinkMessage
from nfnl.wire.layout import Layout, layout_of


class Direction(Enum):
    """Who says it. Requests and answers may share a type number; NLM_F_REQUEST tells them apart."""

    TO_KERNEL = "to the kernel"
    FROM_KERNEL = "from the kernel"

    # there is one of each, and it is looked up with every message: Enum's own takes the name's
    __hash__ = object.__hash__


class _Required(Enum):
    REQUIRED = "required"

    def __repr__(self) -> str:
        return "REQUIRED"


#: Marks an attribute that must be present.
REQUIRED = _Required.REQUIRED


class Attr:
    """One attribute of a declaration: its number, its layout, and what people need to know about it."""

    #: how its value lies in bytes; None for a nest
    layout: Layout | None
    #: what is inside, if it holds attributes
    nest: type[AttrSet] | None
    #: NLA_F_NESTED is set on building (it is ignored on reading, as in the kernel)
    nested: bool

    def __init__(
        self,
        number: int,
        kernel_name: str,
        *,
        default: Any,
        doc: str,
        since: str,
        nested: bool,
        padded: bool,
        policy: Layout | None,
    ) -> None:
        self.number = number
        #: the constant in the kernel's headers, e.g. ``NFQA_MARK``
        self.kernel_name = kernel_name
        self.default = default
        self.doc = doc
        #: first kernel that knows it, where that matters
        self.since = since
        self._nested = nested
        #: padded to a multiple of 4 even at the end of the message
        self.padded = padded
        #: what the kernel's attribute policy checks: a layout whose size is the minimum; None where it checks nothing
        self.policy = policy
        # filled in when the class is complete
        self.name = ""
        self.index = -1
        self._owner: type[View] | None = None

    def __getattr__(self, name: str) -> Any:
        # Annotations are evaluated when first asked for: doing so is most of what importing a declaration would cost.
        if name not in ("layout", "nest", "nested") or self._owner is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        hints = typing.get_type_hints(self._owner, include_extras=True)
        for a in self._owner.__attrs__:
            a.layout, a.nest = _in_annotation(self._owner, a, hints[a.name])
            a.nested = a._nested or a.nest is not None
        return getattr(self, name)

    @property
    def required(self) -> bool:
        """The message is not complete without it."""
        return self.default is REQUIRED

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: View | None, owner: type[View]) -> Any:
        if obj is None:
            return self
        # First touch of a field of this class: generated properties take the place of these descriptors.
        _compiled().install(owner)
        return getattr(obj, self.name)

    def __repr__(self) -> str:
        kind = self.nest.__name__ if self.nest else self.layout.name if self.layout else "?"
        return f"<attr {self.number} {self.name}: {kind}>"


def attr(
    number: int,
    kernel_name: str,
    *,
    default: Any = REQUIRED,
    doc: str = "",
    since: str = "",
    nested: bool = False,
    padded: bool = True,
    policy: Layout | None = None,
) -> Any:
    """Declare an attribute. See `Attr` for the arguments; without a default it is required."""
    return Attr(number, kernel_name, default=default, doc=doc, since=since, nested=nested, padded=padded, policy=policy)


@cache  # which is faster than to import again what is there
def _compiled() -> Any:
    # Codecs are generated at first use, so that importing declarations stays cheap.
    from nfnl.wire import compiled

    return compiled


@dataclass(frozen=True, slots=True)
class RawAttr:
    """An attribute as it lies on the wire."""

    type: int  #: the type word, flag bits (0x8000 nested, 0x4000 network order) included
    data: bytes

    @property
    def number(self) -> int:
        """The type without its flag bits."""
        return self.type & 0x3FFF


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attr,))
class View:
    """A set of attributes seen in bytes. Every length was checked when it was made: reading a field cannot fail.

    Fields that are absent read as their default (None). Two views are equal when their declared fields are; unknown attributes,
    their order, repeats and padding (`residue`) are kept, travel with `bytes`, and do not count.
    """

    __slots__ = ("_data", "_shape")
    _data: bytes
    _shape: Any

    __attrs__: ClassVar[tuple[Attr, ...]] = ()
    __by_number__: ClassVar[dict[int, Attr]] = {}

    def __init_subclass__(cls, *, wire_order: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in cls.__dict__.items() if isinstance(value, Attr)}
        inherited = {a.name: a for base in cls.__bases__ for a in getattr(base, "__attrs__", ())}
        found = {name: own.get(name) or copy.copy(a) for name, a in inherited.items()} | own
        unknown = [name for name in wire_order.split() if name not in found]
        if unknown:
            raise TypeError(f"{cls.__name__}: wire_order names {', '.join(unknown)}, which is no attribute")
        found = {name: found[name] for name in (*wire_order.split(), *found)}
        for index, (name, value) in enumerate(found.items()):
            value._owner = cls
            value.index = index
            if name not in own:
                setattr(cls, name, value)
        cls.__attrs__ = tuple(found.values())
        cls.__by_number__ = {a.number: a for a in cls.__attrs__}
        if len(cls.__by_number__) != len(found):
            raise TypeError(f"{cls.__name__}: an attribute number is used twice")

    def __init__(self, **values: Any) -> None:
        _compiled().build_into(self, values, NATIVE)

    @classmethod
    def in_order(cls, **values: Any) -> Self:
        """Like the constructor, but the attributes lie on the wire in the order in which they are given here.

        For what the kernel writes now in one order and now in another, as a flow in dumps and in events.
        """
        return cast("Self", _compiled().build(cls, values, NATIVE, as_given=True))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def fields(self) -> dict[str, Any]:
        """Every declared field and its value, in the order of declaration; absent ones with their default."""
        return {a.name: getattr(self, a.name) for a in self.__attrs__}

    def present(self) -> frozenset[str]:
        """Names of the declared attributes that are there. Absent is not zero."""
        return frozenset(a.name for a in self.__attrs__ if self._shape.at[a.index] is not None)

    @property
    def attributes(self) -> tuple[RawAttr, ...]:
        """All attributes as they lie on the wire: in order, repeats and unknown ones included."""
        return tuple(_compiled().raw_attributes(self))

    @property
    def unknown(self) -> tuple[RawAttr, ...]:
        """The attributes the declaration does not know. Kernels grow; what we do not understand is kept."""
        return tuple(a for a in self.attributes if a.number not in self.__by_number__)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; None takes an attribute out. Unknown attributes and their order are kept."""
        return cast("Self", _compiled().replace(self, changes))

    __replace__ = replace

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, a.name) for a in self.__attrs__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._shown())})"

    def _shown(self) -> Iterator[str]:
        present = self.present()
        for a in self.__attrs__:
            if a.name in present:
                yield f"{a.name}={getattr(self, a.name)!r}"

    def __deepcopy__(self, memo: object) -> Self:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled().revive, (type(self), bytes(self), self._shape.order.name)

    def __bytes__(self) -> bytes:
        raise NotImplementedError


def _in_annotation(cls: type, a: Attr, hint: Any) -> tuple[Layout | None, type[AttrSet] | None]:
    """The layout or the nest in ``X`` or ``X | None``."""
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
    if len(options) == 1:
        (option,) = options
        if isinstance(option, type) and issubclass(option, AttrSet):
            return None, option
        layout = layout_of(option)
        if layout is not None:
            return layout, None
    raise TypeError(f"{cls.__name__}.{a.name}: {hint} has no layout")


class AttrSet(View):
    """A nest: attributes inside an attribute."""

    __slots__ = ()

    #: the message that says the same (``conntrack.Flow``), and in whose place its attributes are described
    __told_by__: ClassVar[str] = ""

    def __bytes__(self) -> bytes:
        """The attributes of the nest, without the header of the attribute that holds them."""
        start, end = self._shape.span
        return self._data[start:end]


@dataclass(frozen=True, slots=True)
class Subsystem:
    """An nfnetlink subsystem: its number, its name in `nfnl.subsys`, and the kernel file that implements it."""

    id: SubsystemId
    name: str
    source: str


#: (message type, direction) -> declaration. Filled by importing the modules of `nfnl.subsys`.
registry: dict[tuple[int, Direction], type[Message]] = {}


class _HeaderField:
    """A field of nlmsghdr or nfgenmsg: always there, 0 unless said otherwise."""


def _header_field(*, default: int = 0) -> Any:
    return default


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attr, _header_field))
class Message(View, NetlinkMessage):
    """An nfnetlink message: ``nlmsghdr``, ``nfgenmsg``, attributes.

    Built from keyword arguments, checked at once: a value the layout cannot hold raises `EncodeError` that names it. The header
    fields are ``nlmsg_flags``, ``nlmsg_seq``, ``nlmsg_pid``, ``nfgen_family`` (u8, see `Family`), ``nfgen_version`` (u8, always
    0 today) and ``res_id`` (be16: the queue or group number); each is 0 unless given.
    """

    __slots__ = ()

    __subsystem__: ClassVar[Subsystem]
    __type__: ClassVar[int]
    __direction__: ClassVar[Direction]
    __kernel_name__: ClassVar[str]

    if typing.TYPE_CHECKING:
        nlmsg_flags: int = _header_field(default=0)
        nlmsg_seq: int = _header_field(default=0)
        nlmsg_pid: int = _header_field(default=0)
        nfgen_family: int = _header_field(default=0)
        nfgen_version: int = _header_field(default=0)
        res_id: int = _header_field(default=0)
    else:

        @property
        def nfgen_family(self) -> int:
            """``nfgen_family``: the protocol family of the hook, see `Family`."""
            return self._data[NLMSG_HDRLEN]

        @property
        def nfgen_version(self) -> int:
            """``nfgen_version``: 0."""
            return self._data[NLMSG_HDRLEN + 1]

        @property
        def res_id(self) -> int:
            """``res_id``, network order: the number of the queue or group; 0 where it means nothing."""
            return self._data[NLMSG_HDRLEN + 2] << 8 | self._data[NLMSG_HDRLEN + 3]

    def __init_subclass__(
        cls,
        *,
        subsystem: Subsystem,
        type: int,  # noqa: A002
        direction: Direction,
        kernel_name: str,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.__subsystem__ = subsystem
        cls.__type__ = subsystem.id << 8 | type
        cls.__direction__ = direction
        cls.__kernel_name__ = kernel_name
        key = (cls.__type__, direction)
        if key in registry:
            raise TypeError(f"{cls.__name__}: message type {cls.__type__:#06x} {direction.value} is declared already")
        registry[key] = cls

    @property
    def _order(self) -> ByteOrder:
        return cast("ByteOrder", self._shape.order)

    def _key(self) -> tuple[Any, ...]:
        return (
            self.nlmsg_flags,
            self.nlmsg_seq,
            self.nlmsg_pid,
            self.nfgen_family,
            self.nfgen_version,
            self.res_id,
            *super()._key(),
        )

    def _shown(self) -> Iterator[str]:
        for name in ("nlmsg_flags", "nlmsg_seq", "nlmsg_pid", "nfgen_family", "nfgen_version", "res_id"):
            value = getattr(self, name)
            if value:
                yield f"{name}={value:#x}" if name == "nlmsg_flags" else f"{name}={value}"
        yield from super()._shown()

    def __bytes__(self) -> bytes:
        """The message exactly as it came or was built, with any padding and stray bytes behind it."""
        return self._data


#: names of the header fields a message is built with, with their struct sizes in bits
HEADER_FIELDS: dict[str, int] = {
    "nlmsg_flags": 16,
    "nlmsg_seq": 32,
    "nlmsg_pid": 32,
    "nfgen_family": 8,
    "nfgen_version": 8,
    "res_id": 16,
}
