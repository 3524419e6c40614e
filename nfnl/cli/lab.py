"""``nfnl lab``: other kernels than the one of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nfnl.errors import NfnlError
from nfnl.testing import guest

#: Exit statuses that are not the command's: as timeout(1) has it, and what containers are started with.
TIMED_OUT, NO_RESULT = 124, 125


@click.group()
def command() -> None:
    """Run commands on other kernels than the one of this machine."""


@command.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--kernel",
    required=True,
    metavar="PATH|SUITE:PACKAGE",
    help="The kernel: an image (its modules beside it or in /lib/modules), a directory that a kernel package was unpacked to, or a "
    "package to fetch with apt, from a suite of the distribution that this machine uses. '*' in PACKAGE stands for anything.",
)
@click.option("--timeout", type=click.FloatRange(min=1), default=300, show_default=True, help="Seconds until the guest is stopped.")
@click.option("--memory", type=click.IntRange(min=256), default=1024, show_default=True, help="Memory of the guest in MiB.")
@click.option(
    "--share",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="What the command writes below this directory is there afterwards.",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(kernel: str, timeout: float, memory: int, share: Path | None, words: tuple[str, ...]) -> None:
    """Boot a kernel in an emulated machine and run COMMAND in it, as root.

    The guest has no disk and no network. In its memory it has this Python with its environment, a copy of the current directory
    and of COMMAND, the programs of netfilter, and the kernel's modules. COMMAND's output comes here as it is printed. It needs
    qemu and kmod, no root, and no KVM.

    The exit status is that of COMMAND (127: there is none); 124, when the time was up; 125, when the kernel panicked, qemu died,
    or there was no guest at all. Of a guest that failed, the last lines of its console are shown. Nothing of it is left behind
    but fetched kernels, in nfnl/kernels of the cache directory.

    \b
    Examples:
      nfnl lab run --kernel bookworm:linux-image-cloud-amd64 -- pytest --nfnl-kernel=linux
      nfnl lab run --kernel /boot/vmlinuz-6.1.0-50-amd64 -- nfnl demo --kernel linux
      nfnl lab run --kernel 'trixie-backports:linux-image-6.18*-cloud-amd64' --share reports -- pytest --junitxml=reports/6.18.xml
    """
    try:
        status = guest.run(guest.find_kernel(kernel, tell), words, share=share, timeout=timeout, memory=memory, tell=tell)
    except NfnlError as error:
        tell(str(error))
        status = TIMED_OUT if isinstance(error, guest.GuestTimeout) else NO_RESULT
    sys.exit(status)


def tell(text: str) -> None:
    """A line of ours among those of the command: on standard error, with our name."""
    click.echo(f"nfnl lab: {text}", err=True)
