"""The fast codec: Python generated from declarations at first use.

How it is fast. A *shape* is what a message looks like before anybody reads a value: which attributes, in which order, of which
length. Traffic comes in few shapes, so once a generic decode has learned one, a matcher recognises the next message of it by
comparing all its headers at once. A matched message needs no further checks, since every attribute header in it was compared with
one that was checked before. What matches no remembered shape is decoded generically, with the same result.

How it is right. `nfnl.wire.reference` says the same thing again through construct, and a property test holds the two together on
generated, near-valid and random bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, NamedTuple, TypeVar

from nfnl.errors import DecodeError, EncodeError
from nfnl.wire.constants import NFGENMSG_LEN, NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN, align4
from nfnl.wire.declare import HEADER_FIELDS, REQUIRED, Attr, AttrSet, Message, RawAttr, View
from nfnl.wire.header import BIG, LITTLE, NATIVE, ByteOrder, excerpt
from nfnl.wire.layout import Layout

#: How many shapes one codec remembers; beyond that messages are decoded generically. Real traffic has a handful per queue.
MAX_SHAPES = 256
#: Attributes begin here: behind nlmsghdr and nfgenmsg.
BODY = NLMSG_HDRLEN + NFGENMSG_LEN

V = TypeVar("V", bound=View)
M = TypeVar("M", bound=Message)
_new: Callable[..., Any] = object.__new__
_put = object.__setattr__
# the slots' own setters, past the immutability of views
_put_data, _put_shape = View.__dict__["_data"].__set__, View.__dict__["_shape"].__set__


#: an attribute header and where it stands: offset, nla_len, nla_type with its flag bits. (A NamedTuple takes eight times as long.)
Header = tuple[int, int, int]


class Shape:
    """Where everything is in messages of one look.

    ``at[i]`` says where field i is: None when absent, an offset for numbers, a slice for what is cut out, a Shape for a nest.
    ``span`` is where the attributes begin and end (None: with the message).
    """

    __slots__ = ("at", "order", "span")

    def __init__(self, at: tuple[Any, ...], span: tuple[int, int | None], order: ByteOrder) -> None:
        self.at = at
        self.span = span
        self.order = order


class Pattern(NamedTuple):
    """What a message must look like to have a shape: everything but its values, and its seq and pid."""

    type_and_flags: bytes
    nfgenmsg: bytes
    #: every attribute header, nests included, in the order met
    headers: tuple[Header, ...]
    #: nlmsg_len, or None where the last attribute takes what is left
    length: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for patterns that recognise the same messages."""
        if self.length is not None:
            return self
        return self.type_and_flags, self.nfgenmsg, *self.headers[:-1], self.headers[-1][::2]


#: says of the bytes of a message whether they have a certain shape, and gives it
Matcher = Callable[[bytes], Shape | None]


class Codec:
    """Decodes one declared message on hosts of one byte order."""

    def __init__(self, cls: type[Message], order: ByteOrder) -> None:
        install(cls)
        self.cls = cls
        self.order = order
        #: keys of the patterns that are remembered
        self._known: set[tuple[Any, ...]] = set()
        #: matchers of shapes of one length by that length, and of those whose last attribute may have any
        self._of_length: dict[int, list[Matcher]] = {}
        self._of_any: list[Matcher] = []
        #: the matcher of the shape seen last
        self.match: Matcher = lambda data: None

    def decode(self, data: bytes, base: int = 0) -> Any:
        """A view of ``data``: one message with what stands behind it. ``base`` is its offset in the datagram, for errors.

        Raises `DecodeError`, naming attribute and offset.
        """
        return view_of(self.cls, data, self.match(data) or self._learn(data, base))

    def parse(self, data: bytes, base: int = 0) -> Any:
        """The same as `decode`, step by step: no shape is looked up, and none is remembered."""
        end, at, _ = self._walked(data, base)
        return view_of(self.cls, data, Shape(tuple(at), (BODY, end), self.order))

    def remembered(self, data: bytes) -> Shape | None:
        """The shape of ``data``, if it is any of those seen before. It is tried first next time: traffic comes in runs."""
        for matcher in self._of_length.get(len(data), []) + self._of_any:
            shape = matcher(data)
            if shape is not None:
                self.match = matcher
                return shape
        return None

    def _learn(self, data: bytes, base: int) -> Shape:
        """Another shape than that of the message before: a remembered one, or step by step."""
        found = self.remembered(data)
        if found is not None:
            return found
        shape, remember = self._analyse(data, base)
        if remember is not None and len(self._known) < MAX_SHAPES and remember.key not in self._known:
            self._known.add(remember.key)
            self.match = _matcher(shape, remember)
            same = self._of_any if remember.length is None else self._of_length.setdefault(remember.length, [])
            same.append(self.match)
        return shape

    def _analyse(self, data: bytes, base: int) -> tuple[Shape, Pattern | None]:
        """Decode generically: the shape, and the pattern that recognises it, if it is worth remembering."""
        order = self.order
        end, at, headers = self._walked(data, base)
        if end != len(data):
            return Shape(tuple(at), (BODY, end), order), None
        open_field = _open_end(self.cls, at, headers, end)
        if open_field is None:
            return Shape(tuple(at), (BODY, end), order), Pattern(data[4:8], data[16:20], tuple(headers), end)
        at[open_field] = slice(at[open_field].start, None)
        return Shape(tuple(at), (BODY, None), order), Pattern(data[4:8], data[16:20], tuple(headers), None)

    def _walked(self, data: bytes, base: int) -> tuple[int, list[Any], list[Header]]:
        """Where the message ends, where its fields are, and the headers met."""
        cls, order = self.cls, self.order
        end: int = order.u32.unpack_from(data, 0)[0]
        if end < BODY:
            problem = f"{end} bytes hold no nfgenmsg"
            raise DecodeError(problem, path=cls.__name__, offset=base + NLMSG_HDRLEN, excerpt=excerpt(data, NLMSG_HDRLEN))
        headers: list[Header] = []
        return end, _walk(cls, data, BODY, end, order, headers, cls.__name__, base), headers


def _open_end(cls: type[View], at: list[Any], headers: list[Header], end: int) -> int | None:
    """Index of the field that is the last attribute and takes all bytes to the end; its length may vary within a shape."""
    if not headers:
        return None
    offset, length, type_ = headers[-1]
    field = cls.__by_number__.get(type_ & NLA_TYPE_MASK)
    if field is None or field.layout is None or not field.layout.greedy or offset + length != end:
        return None
    place = at[field.index]
    return field.index if place is not None and place.start == offset + NLA_HDRLEN else None


def _walk(
    cls: type[View],
    data: bytes,
    start: int,
    end: int,
    order: ByteOrder,
    headers: list[Header],
    path: str,
    base: int,
) -> list[Any]:
    """Check all attributes between two offsets and note where the declared ones are. The last of a repeated one counts."""
    by_number, required, count = _declared(cls)  # type: ignore[arg-type]  # it is the instances that mypy finds no hash of
    at: list[Any] = [None] * count
    unpack = order.attr.unpack_from
    offset = start
    while end - offset >= NLA_HDRLEN:
        length, type_ = unpack(data, offset)
        declared = by_number.get(type_ & NLA_TYPE_MASK)
        if length < NLA_HDRLEN or length > end - offset:
            raise DecodeError(
                f"nla_len is {length}, but must be from 4 to the {end - offset} bytes left",
                path=f"{path}.{declared[3].name}" if declared else f"{path}.[{type_ & NLA_TYPE_MASK}]",
                offset=base + offset,
                excerpt=excerpt(data, offset),
            )
        headers.append((offset, length, type_))
        if declared is not None:
            index, size, as_offset, field = declared
            if size < 0 or length - NLA_HDRLEN < size:
                at[index] = _place(field, data, offset, length, order, headers, path, base)
            else:
                at[index] = offset + NLA_HDRLEN if as_offset else slice(offset + NLA_HDRLEN, offset + length)
        offset += (length + 3) & ~3
    for field in required:
        if at[field.index] is None:
            raise DecodeError(
                f"required attribute {field.kernel_name} is missing", path=f"{path}.{field.name}", offset=base + start
            )
    return at


@cache
def _declared(cls: type[View]) -> tuple[dict[int, tuple[int, int, bool, Attr]], list[Attr], int]:
    """What `_walk` has to know of a declaration: fields by number, those that must be there, and how many there are.

    Of each the index, the fewest bytes (-1: a nest), and whether an offset says where it is.
    """
    rows = {
        number: (field.index, field.layout.size if field.layout else -1, bool(field.layout and field.layout.code), field)
        for number, field in cls.__by_number__.items()
    }
    return rows, [field for field in cls.__attrs__ if field.required], len(cls.__attrs__)


def _place(
    field: Attr, data: bytes, offset: int, length: int, order: ByteOrder, headers: list[Header], path: str, base: int
) -> Shape:
    """A nest; or else the payload is too short."""
    start, end = offset + NLA_HDRLEN, offset + length
    if field.nest is not None:
        inner = _walk(field.nest, data, start, end, order, headers, f"{path}.{field.name}", base)
        return Shape(tuple(inner), (start, end), order)
    layout = field.layout
    assert layout is not None
    raise DecodeError(
        f"{end - start} bytes are too few for {layout.name}, which takes {layout.size}",
        path=f"{path}.{field.name}",
        offset=base + offset,
        excerpt=excerpt(data, offset),
    )


def _matcher(shape: Shape, pattern: Pattern) -> Matcher:
    """``match(data) -> shape | None`` for one shape."""
    words = [(4, pattern.type_and_flags), (16, pattern.nfgenmsg)]
    words += [(offset, shape.order.attr.pack(nla_len, nla_type)) for offset, nla_len, nla_type in pattern.headers]
    if pattern.length is None:
        return _open_matcher(shape, words, pattern.headers[-1])
    return _whole_matcher(shape, [(0, shape.order.u32.pack(pattern.length)), *words], pattern.length)


def _whole_matcher(shape: Shape, words: list[tuple[int, bytes]], length: int) -> Matcher:
    """For messages of one length: all the bytes as one number, under a mask without the values, must be a certain number.

    However many headers there are, and flows have many, it is one comparison.
    """
    bits, bytes_ = bytearray(length), bytearray(length)
    for offset, word in words:
        bits[offset : offset + len(word)] = b"\xff" * len(word)
        bytes_[offset : offset + len(word)] = word
    number = int.from_bytes
    mask, wanted = number(bits, "little"), number(bytes_, "little")

    def match(data: bytes) -> Shape | None:
        return shape if len(data) == length and number(data, "little") & mask == wanted else None

    return match


def _open_matcher(shape: Shape, words: list[tuple[int, bytes]], last_header: Header) -> Matcher:
    """For messages whose last attribute may have any length, such as packets: generated, as the bytes may be many.

    One struct call takes nlmsg_len, type and flags, nfgenmsg and every attribute header out of the bytes, as words of 32 bits, or
    64 for neighbours, which are then compared.
    """
    order = shape.order
    last = words[-1]
    merged = [words[0]]
    for offset, word in words[1:-1]:
        before, neighbour = merged[-1]
        if before + 4 == offset and len(neighbour) == 4:
            merged[-1] = before, neighbour + word
        else:
            merged.append((offset, word))
    code, position, names, tests = order.prefix + "I", 4, ["n"], []
    for offset, word in [*merged, last]:
        code += f"{offset - position}x{'I' if len(word) == 4 else 'Q'}"
        position = offset + len(word)
        names.append(f"w{offset}")
        tests.append(f"w{offset} == {int.from_bytes(word, order.name)}")
    # The length of the last attribute follows from that of the message. It is 4 at least, as its header could be read.
    offset, _, nla_type = last_header
    expected = f"n + {(nla_type << 16) - offset}" if order is LITTLE else f"(n - {offset} << 16) + {nla_type}"
    tests[-1] = f"w{offset} == {expected}"
    source = (
        "def match(data):\n"
        "    try:\n"
        f"        {', '.join(names)}, = unpack(data)\n"
        "    except StructError:\n"
        "        return None\n"
        f"    if n == len(data) <= {offset + 0xFFFF} and {' and '.join(tests)}:\n"
        "        return shape\n"
    )
    scope = {"unpack": Struct(code).unpack_from, "StructError": StructError, "shape": shape}
    match: Matcher = _compile(source, scope, "match", "<nfnl matcher>")
    return match


def _compile(source: str, scope: dict[str, Any], name: str, filename: str) -> Any:
    exec(compile(source, filename, "exec"), scope)
    return scope[name]


# --- reading fields ------------------------------------------------------------------------------------------------------


def install(cls: type[View]) -> None:
    """Replace the attribute descriptors of a declaration by generated properties."""
    for field in cls.__attrs__:
        if isinstance(cls.__dict__.get(field.name), Attr):
            setattr(cls, field.name, property(_getter(field), doc=field.doc))


def _getter(field: Attr) -> Callable[[Any], Any]:
    layout = field.layout
    scope: dict[str, Any] = {"default": None if field.required else field.default}
    if field.nest is not None:
        scope |= {"nest": field.nest, "view": view_of}
        value = "view(nest, self._data, place)"
    else:
        assert layout is not None
        if layout.code and not layout.host:
            scope["unpack"] = Struct(BIG.prefix + layout.code).unpack_from
            scope["convert"] = layout.convert
            raw = "unpack(self._data, place)"
            value = f"convert(*{raw})" if layout.parts else f"convert({raw}[0])" if layout.convert else f"{raw}[0]"
        elif layout.code:
            scope["little"] = Struct(LITTLE.prefix + layout.code).unpack_from
            scope["big"] = Struct(BIG.prefix + layout.code).unpack_from
            scope["LITTLE"] = LITTLE
            scope["convert"] = layout.convert or (lambda v: v)
            value = "convert((little if self._shape.order is LITTLE else big)(self._data, place)[0])"
        elif layout.name == "bytes":
            value = "self._data[place]"
        elif layout.name == "text":
            value = "self._data[place].split(b'\\0', 1)[0].decode('utf-8', 'surrogateescape')"
        else:
            scope["parse"] = {order: layout.construct(order).parse for order in (LITTLE, BIG)}
            value = "parse[self._shape.order](self._data[place])"
    source = f"def get(self):\n    place = self._shape.at[{field.index}]\n    return {value} if place is not None else default\n"
    getter: Callable[[Any], Any] = _compile(source, scope, "get", f"<nfnl field {field.name}>")
    getter.__name__ = field.name
    return getter


def view_of(cls: type[V], data: bytes, shape: Shape) -> V:
    """A view of bytes that are known to have that shape."""
    view: V = _new(cls)
    _put_data(view, data)
    _put_shape(view, shape)
    return view


class Wire(NamedTuple):
    """An attribute on the wire, with where it starts."""

    offset: int
    type: int
    data: bytes
    padding: bytes


def wire_attributes(data: bytes, start: int, end: int, order: ByteOrder) -> Iterator[Wire]:
    """Every attribute between two offsets that were checked before."""
    offset = start
    while end - offset >= NLA_HDRLEN:
        length, type_ = order.attr.unpack_from(data, offset)
        after = min(offset + align4(length), end)
        yield Wire(offset, type_, data[offset + NLA_HDRLEN : offset + length], data[offset + length : after])
        offset = after


def _span(view: View) -> tuple[int, int]:
    """Where the attributes of a view start and end."""
    if isinstance(view, Message):
        return BODY, view.nlmsg_len
    start, end = view._shape.span
    return start, end


def raw_attributes(view: View) -> Iterator[RawAttr]:
    """See `View.attributes`."""
    for wire in wire_attributes(view._data, *_span(view), view._shape.order):
        yield RawAttr(wire.type, wire.data)


# --- building ----------------------------------------------------------------------------------------------------------------


def build_into(view: View, values: dict[str, Any], order: ByteOrder, *, as_given: bool = False) -> None:
    """Make ``view``, fresh from ``__new__``, the message or nest with these field values.

    The attributes lie in the order of declaration; with ``as_given`` in that of ``values``.
    """
    cls = type(view)
    key = (cls, order, as_given, *values)
    builder = _builders.get(key)
    if builder is None and key not in _builders and len(_builders) < MAX_BUILDERS:
        builder = _builders[key] = _builder(cls, tuple(values), order, as_given=as_given)
    built = None if builder is None else builder(values)
    if built is not None:
        _put_data(view, built[0])
        _put_shape(view, built[1])
        return
    path = cls.__name__
    header = {name: values.pop(name, 0) for name in HEADER_FIELDS} if isinstance(view, Message) else {}
    data = _attributes(cls, values, order, path, as_given=as_given)
    if issubclass(cls, Message):
        data = message_bytes(cls.__type__, header, data, order, path)
    shape = revive(cls, data, order.name)._shape
    _put(view, "_data", data)
    _put(view, "_shape", shape)


#: writes a message, or a nest, of the values of certain fields; None: let it be done step by step
Builder = Callable[[dict[str, Any]], tuple[bytes, Shape] | None]
#: How many builders are kept; a program has some dozens of ways to fill in a message.
MAX_BUILDERS = 1024
_builders: dict[tuple[Any, ...], Builder | None] = {}


class _Calls:
    """The struct calls that write what has its place in advance: one for each change of byte order."""

    def __init__(self, prefix: str) -> None:
        self.size = 0
        self.scope: dict[str, Any] = {"StructError": StructError}
        self._calls: list[tuple[str, list[str], list[str]]] = [(prefix, [], [])]

    def add(self, prefix: str, code: str, *arguments: str) -> None:
        """What the expressions give."""
        if prefix != self._calls[-1][0]:
            self._calls.append((prefix, [], []))
        _, codes, all_arguments = self._calls[-1]
        codes.append(code)
        all_arguments.extend(arguments)
        self.size += Struct(prefix + code).size

    def constant(self, data: bytes) -> None:
        """Bytes that are always the same."""
        self.add(self._calls[-1][0], f"{len(data)}s", self.name(data))

    def align(self) -> None:
        """Zeros up to a multiple of 4."""
        self.add(self._calls[-1][0], f"{-self.size % 4}x")

    def name(self, value: object) -> str:
        """A name by which the generated code knows an object."""
        name = f"v{len(self.scope)}"
        self.scope[name] = value
        return name

    def __str__(self) -> str:
        calls = [(self.name(Struct(prefix + "".join(codes)).pack), ", ".join(given)) for prefix, codes, given in self._calls]
        return " + ".join(f"{pack}({given})" for pack, given in calls)


def _builder(cls: type[View], names: tuple[str, ...], order: ByteOrder, *, as_given: bool) -> Builder | None:
    """A builder for messages with these fields, generated; None where a field is none of the kinds it knows.

    Those are numbers and what is made of them, and one field of bytes at the end. Values that do not fit are left to the slow way,
    which says why.
    """
    install(cls)
    fields = [field for field in cls.__attrs__ if field.name in names]
    if as_given:
        fields.sort(key=lambda field: names.index(field.name))
    known = {field.name for field in fields} | (HEADER_FIELDS.keys() if issubclass(cls, Message) else set())
    if not known.issuperset(names) or any(f.default is not None for f in cls.__attrs__ if f.name not in names):
        return None
    tail = fields.pop() if fields and fields[-1].layout is not None and fields[-1].layout.name == "bytes" else None
    calls = _Calls(order.prefix)
    at: list[Any] = [None] * len(cls.__attrs__)
    if issubclass(cls, Message):
        header = [f"values[{name!r}]" if name in names else "0" for name in HEADER_FIELDS]
        calls.add(order.prefix, "IHHIIBB", "total", str(cls.__type__), *header[:-1])
        calls.add(BIG.prefix, "H", header[-1])
    for field in fields:
        layout = field.layout
        if layout is None or not layout.code:
            return None
        calls.align()
        calls.constant(order.attr.pack(NLA_HDRLEN + layout.size, field.number))
        at[field.index] = calls.size
        value = f"values[{field.name!r}]"
        if layout.parts:
            value = f"*{value}"
        elif layout.plain:
            value = f"{calls.name(layout.plain)}({value})"
        calls.add(layout.prefix(order), layout.code, value)
        if field.padded:
            calls.align()
    if tail is not None:
        calls.align()
    return _generate(calls, tail, at, BODY if issubclass(cls, Message) else 0, order)


def _generate(calls: _Calls, tail: Attr | None, at: list[Any], start: int, order: ByteOrder) -> Builder:
    """The builder of these calls, and of the bytes behind them."""
    size, scope = calls.size, calls.scope
    scope |= {"Shape": Shape, "order": order, "shape": Shape(tuple(at), (start, size), order)}
    if tail is None:
        body = f"        total = {size}\n        return {calls}, shape\n"
    else:
        first = size + NLA_HDRLEN
        scope |= {"before": tuple(at[: tail.index]), "behind": tuple(at[tail.index + 1 :]), "attr": order.attr.pack}
        data = f"{calls} + attr({NLA_HDRLEN} + length, {tail.number | (NLA_F_NESTED if tail.nested else 0)}) + tail"
        body = (
            f"        tail = values[{tail.name!r}]\n"
            "        if type(tail) is not bytes:\n"
            "            return None\n"
            "        length = len(tail)\n"
            f"        total = end = {first} + length\n"
        )
        if start:  # a message that ends with the bytes has one shape, however many they are
            at[tail.index] = slice(first, None)
            scope["open"] = Shape(tuple(at), (start, None), order)
            body += f"        if {'not length & 3' if tail.padded else 'True'}:\n            return {data}, open\n"
        if tail.padded:
            body += "        total += -length & 3\n"
            data += " + bytes(total - end)"
        body += f"        shape = Shape((*before, slice({first}, end), *behind), ({start}, total), order)\n"
        body += f"        return {data}, shape\n"
    unfit = "(StructError, TypeError, ValueError, AttributeError)"
    source = f"def build(values):\n    try:\n{body}    except {unfit}:\n        return None\n"
    builder: Builder = _compile(source, scope, "build", "<nfnl builder>")
    return builder


def build(cls: type[V], values: dict[str, Any], order: ByteOrder = NATIVE, *, as_given: bool = False) -> V:
    """``cls(**values)`` for a host of any byte order; ``cls.in_order(**values)`` with ``as_given``."""
    view: V = _new(cls)
    build_into(view, dict(values), order, as_given=as_given)
    return view


def message_bytes(type_: int, header: dict[str, int], attributes: bytes, order: ByteOrder, path: str) -> bytes:
    """nlmsghdr, nfgenmsg and attributes put together."""
    for name, bits in HEADER_FIELDS.items():
        value = header[name]
        if not isinstance(value, int) or not 0 <= value < 1 << bits:
            raise EncodeError(f"{value!r} is not a number of {bits} bits", path=f"{path}.{name}")
    length = BODY + len(attributes)
    return (
        order.header.pack(length, type_, header["nlmsg_flags"], header["nlmsg_seq"], header["nlmsg_pid"])
        + bytes((header["nfgen_family"], header["nfgen_version"]))
        + header["res_id"].to_bytes(2, "big")
        + attributes
    )


def _attributes(cls: type[View], values: dict[str, Any], order: ByteOrder, path: str, *, as_given: bool = False) -> bytes:
    out = bytearray()
    fields = cls.__attrs__
    if as_given:
        place = {name: i for i, name in enumerate(values)}
        fields = tuple(sorted(fields, key=lambda field: place.get(field.name, len(place))))
    for field in fields:
        value = values.pop(field.name, field.default)
        if value is None:
            continue
        if value is REQUIRED:
            raise TypeError(f"{path}() needs {field.name}=")
        piece = attribute(field, value, order, path)
        out += b"\0" * (-len(out) % 4)
        out += piece
        if field.padded:
            out += b"\0" * (-len(out) % 4)
    if values:
        raise TypeError(f"{path}() has no field {', '.join(sorted(values))}")
    return bytes(out)


def attribute(field: Attr, value: Any, order: ByteOrder, path: str) -> bytes:
    """One attribute: header and payload, not padded. Raises `EncodeError`."""
    path = f"{path}.{field.name}"
    if field.nest is not None:
        if not isinstance(value, field.nest):
            raise EncodeError(f"{value!r} is not a {field.nest.__name__}", path=path)
        data = _in_order(value, order)
    else:
        assert field.layout is not None
        data = pack_value(field.layout, value, order, path)
    if len(data) > 0xFFFF - NLA_HDRLEN:
        raise EncodeError(f"{len(data)} bytes are too many for an attribute, which takes {0xFFFF - NLA_HDRLEN}", path=path)
    return order.attr.pack(NLA_HDRLEN + len(data), field.number | (NLA_F_NESTED if field.nested else 0)) + data


def _in_order(view: AttrSet, order: ByteOrder) -> bytes:
    """The bytes of a nest for a host of that order."""
    if view._shape.order is order:
        return bytes(view)
    return _attributes(type(view), {name: getattr(view, name) for name in view.present()}, order, type(view).__name__)


def pack_value(layout: Layout, value: Any, order: ByteOrder, path: str) -> bytes:
    """The bytes of one value. Raises `EncodeError` for a value the layout cannot hold."""
    try:
        if layout.name == "bytes":
            return bytes(memoryview(value))
        if layout.code:
            fields = value if layout.parts else (layout.plain(value) if layout.plain else value,)
            return Struct(layout.prefix(order) + layout.code).pack(*fields)
        if layout.name == "text":
            return _pack_text(value)
    except (StructError, TypeError, ValueError, AttributeError) as error:
        raise EncodeError(f"{value!r} does not fit {layout.name}: {error}", path=path) from None
    return _pack_by_definition(layout, value, order, path)


def _pack_text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a NUL inside a NUL-terminated text")
    return data + b"\0"


def _pack_by_definition(layout: Layout, value: Any, order: ByteOrder, path: str) -> bytes:
    """A layout that the generator does not know is written by its construct object."""
    import construct  # as late as can be: it takes long to import

    try:
        data: bytes = layout.construct(order).build(value)
    except (construct.ConstructError, TypeError, AttributeError) as error:
        raise EncodeError(f"{value!r} does not fit {layout.name}: {error}", path=path) from None
    return data


def packer(cls: type[Message], field: str, order: ByteOrder = NATIVE, **header: int) -> Callable[..., bytes]:
    """``pack(seq, *values) -> bytes`` for messages of one attribute of fixed layout: header words made once, values each time.

    What it gives is what ``cls(nlmsg_seq=seq, field=values, **header)`` gives, several times faster.
    """
    spec = next(a for a in cls.__attrs__ if a.name == field)
    layout = spec.layout
    assert layout is not None
    assert layout.code
    assert layout.size % 4 == 0
    full = dict.fromkeys(HEADER_FIELDS, 0) | header
    attribute_head = order.attr.pack(NLA_HDRLEN + layout.size, spec.number)
    template = message_bytes(cls.__type__, full, attribute_head + bytes(layout.size), order, cls.__name__)
    before, between = template[:8], template[12:24]
    pack_seq, pack_values = order.u32.pack, Struct(layout.prefix(order) + layout.code).pack

    def pack(seq: int, *values: Any) -> bytes:
        return before + pack_seq(seq) + between + pack_values(*values)

    return pack


def replace(view: V, changes: dict[str, Any]) -> V:
    """See `View.replace`: unchanged attributes keep their bytes and their place, new ones go where the declaration has them."""
    cls, order = type(view), view._shape.order
    path = cls.__name__
    header = {name: changes.pop(name, getattr(view, name)) for name in HEADER_FIELDS} if isinstance(view, Message) else {}
    fields = {field.name: field for field in cls.__attrs__}
    unknown = changes.keys() - fields.keys()
    if unknown:
        raise TypeError(f"{path} has no field {', '.join(sorted(unknown))}")
    pieces: list[tuple[int, bytes]] = []  # (index in the declaration, bytes)
    waiting = dict(changes)
    for wire in wire_attributes(view._data, *_span(view), order):
        field = cls.__by_number__.get(wire.type & NLA_TYPE_MASK)
        if field is not None and field.name in changes:
            value = waiting.pop(field.name, None)
            if value is not None:
                pieces.append((field.index, attribute(field, value, order, path)))
            continue
        piece = order.attr.pack(NLA_HDRLEN + len(wire.data), wire.type) + wire.data + wire.padding
        pieces.append((field.index if field else -1, piece))
    for name, value in waiting.items():
        if value is None:
            continue
        field = fields[name]
        place = next((i for i, (index, _) in enumerate(pieces) if index > field.index), len(pieces))
        pieces.insert(place, (field.index, attribute(field, value, order, path)))
    missing = [field.name for field in cls.__attrs__ if field.required and field.name in changes and changes[field.name] is None]
    if missing:
        raise EncodeError("a required attribute cannot be taken out", path=f"{path}.{missing[0]}")
    body = bytearray()
    for index, piece in pieces:
        body += b"\0" * (-len(body) % 4)
        body += piece
        if index >= 0 and cls.__attrs__[index].padded:
            body += b"\0" * (-len(body) % 4)
    data = message_bytes(cls.__type__, header, bytes(body), order, path) if issubclass(cls, Message) else bytes(body)
    return revive(cls, data, order.name)


def revive(cls: type[V], data: bytes, order_name: str) -> V:
    """A view from its bytes (what pickling stores)."""
    order = LITTLE if order_name == "little" else BIG
    if issubclass(cls, Message):
        view = codec(cls, order).decode(data)
        assert isinstance(view, cls)
        return view
    return revive_nest(cls, data, 0, len(data), order, cls.__name__)


def revive_nest(cls: type[V], data: bytes, start: int, end: int, order: ByteOrder, path: str, base: int = 0) -> V:
    """A view of the attributes between two offsets. Raises `DecodeError`."""
    install(cls)
    return view_of(cls, data, Shape(tuple(_walk(cls, data, start, end, order, [], path, base)), (start, end), order))


_codecs: dict[tuple[type[Message], ByteOrder], Codec] = {}


def codec(cls: type[Message], order: ByteOrder = NATIVE) -> Codec:
    """The codec of a declared message on hosts of that order; generated when first asked for."""
    found = _codecs.get((cls, order))
    if found is None:
        found = _codecs[cls, order] = Codec(cls, order)
    return found
