"""A bridge of two ports: the bridge family as far as a queue sees it (net/bridge/br_forward.c).

What arrives at one port goes out of the other, past a forward chain that hands everything to one queue. Nothing is learnt,
spoken or filtered; what would be for the bridge itself is not modelled.
"""

from __future__ import annotations

from struct import Struct

from nfnl.errors import NotModelled
from nfnl.sim.hooks import BRIDGE, FORWARD, HOOK_NAMES, QUEUE, QUEUE_BYPASS, HookTable
from nfnl.sim.journey import Fate, Journey, Step
from nfnl.sim.skb import Device, Frame, Skb

_TAG = Struct("!HH")
#: EtherTypes of 802.1Q and 802.1ad tags
_TAGS = (0x8100, 0x88A8)
_HEADER = 14
#: addresses that are for bridges themselves
_RESERVED = bytes.fromhex("0180c20000")


class Bridge:
    """``device`` is the bridge, ``ports`` its two ports. ``queue`` is where its forward chain sends everything."""

    def __init__(self, hooks: HookTable, device: Device, ports: list[Device], queue: int, *, bypass: bool) -> None:
        self.device = device
        self._ports = ports
        for port in ports:
            port.master = device
        self._hooks = hooks
        self._verdict = queue << 16 | (QUEUE_BYPASS if bypass else 0) | QUEUE
        rule = f"queue num {queue}{' bypass' if bypass else ''}"
        self._step = Step(HOOK_NAMES[FORWARD], "bridge", "forward", rule, f"QUEUE {queue}")
        hooks.register(BRIDGE, FORWARD, 0, "bridge", self)
        hooks.bridged = self._transmit

    def receive(self, data: bytes, port: Device) -> Journey:
        """A frame arrives at a port (`br_handle_frame`). Raises `NotModelled` for one that is for the bridge itself."""
        journey = Journey(data, data)
        if len(data) < _HEADER or data[:5] == _RESERVED or data[:6] == self.device.mac:
            raise NotModelled("frames without a whole header, or for the bridge itself")
        tag, header = None, data[:_HEADER]
        if int.from_bytes(data[12:14], "big") in _TAGS and len(data) >= _HEADER + 4:
            proto, tci = _TAG.unpack_from(data, 12)
            tag, header, data = (proto, tci), data[:12] + data[16:18], data[4:]  # it travels beside the frame (`skb_vlan_untag`)
        skb = Skb(data[_HEADER:], BRIDGE, journey)
        skb.indev = skb.outdev = self.device
        skb.hwaddr = header[6:12]
        out = next(other for other in self._ports if other is not port)
        skb.frame = Frame(port, out, header, tag)
        if not out.up or out.master is None:
            skb.drop("there is no other port that is up")
            return journey
        self._hooks.run(skb, FORWARD)
        return journey

    def __call__(self, skb: Skb, hook: int) -> int:
        skb.journey.steps.append(self._step)
        return self._verdict

    def _transmit(self, skb: Skb) -> int:
        """`br_dev_queue_push_xmit`: as it goes out, with its tag in it."""
        frame = skb.frame
        assert frame is not None
        tag = _TAG.pack(*frame.vlan) if frame.vlan else b""
        skb.end(Fate.SENT)
        skb.journey.data = frame.header[:12] + tag + frame.header[12:] + skb.data
        return 0
