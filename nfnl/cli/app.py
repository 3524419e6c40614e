"""The command's root: its options, and which commands there are."""

from __future__ import annotations

from importlib import import_module

import click

import nfnl

#: Each is a module beside this one with a ``command`` in it, loaded when it is asked for.
COMMANDS = ("conntrack", "decode", "demo", "doctor", "lab", "queue", "record", "show")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nfnl.cli.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nfnl.__version__, message="nfnl %(version)s")
def app() -> None:
    """Linux netfilter over netlink, and a fake kernel to test against.

    \b
    Examples:
      nfnl demo                        a queue handler at work, in this process, without root
      nfnl demo --kernel linux         the same on the real kernel, in a throw-away namespace
      nfnl doctor                      whether queues can be listened at here, and what is in the way
      nfnl queue 5                     the packets that come to a queue of this machine
      nfnl conntrack list -p tcp       the flows of this machine; events, delete ... as conntrack(8)
      nfnl decode capture.pcap         every byte of netlink datagrams, in words
      nfnl show queue.Packet           what a message is made of
    """
