"""Error numbers of Linux, whatever system this runs on.

A netlink answer carries Linux's number; an OSError raised to the caller has the number that the same name has on his
system, so that ``except BlockingIOError`` works everywhere.
"""

from __future__ import annotations

import errno as host
from enum import IntEnum


class Errno(IntEnum):
    """include/uapi/asm-generic/errno-base.h, errno.h; ENOTSUPP from include/linux/errno.h."""

    text: str

    def __new__(cls, value: int, text: str) -> Errno:
        self = int.__new__(cls, value)
        self._value_ = value
        self.text = text
        return self

    EPERM = 1, "Operation not permitted"
    ENOENT = 2, "No such file or directory"
    EBADF = 9, "Bad file descriptor"
    EAGAIN = 11, "Resource temporarily unavailable"
    ENOMEM = 12, "Cannot allocate memory"
    EACCES = 13, "Permission denied"
    EBUSY = 16, "Device or resource busy"
    EEXIST = 17, "File exists"
    ENODEV = 19, "No such device"
    EINVAL = 22, "Invalid argument"
    EMFILE = 24, "Too many open files"
    ENOSPC = 28, "No space left on device"
    ERANGE = 34, "Numerical result out of range"
    ENODATA = 61, "No data available"
    ETIME = 62, "Timer expired"
    EMSGSIZE = 90, "Message too long"
    ENOPROTOOPT = 92, "Protocol not available"
    EPROTONOSUPPORT = 93, "Protocol not supported"
    ESOCKTNOSUPPORT = 94, "Socket type not supported"
    EOPNOTSUPP = 95, "Operation not supported"
    EADDRINUSE = 98, "Address already in use"
    ENOBUFS = 105, "No buffer space available"
    ESHUTDOWN = 108, "Cannot send after transport endpoint shutdown"
    ECONNREFUSED = 111, "Connection refused"
    EALREADY = 114, "Operation already in progress"
    #: the kernel's own, which leaks to user space without a name there
    ENOTSUPP = 524, "Operation not supported (kernel-internal ENOTSUPP)"

    @classmethod
    def of(cls, error: OSError) -> Errno:
        """The number that Linux has for an error of this system."""
        return cls[host.errorcode[error.errno or 0]]

    def error(self, subject: str | None = None) -> OSError:
        """The exception a system call ends with; ``subject`` is the file it is about."""
        number = getattr(host, self.name, int(self))
        return OSError(number, self.text) if subject is None else OSError(number, self.text, subject)
