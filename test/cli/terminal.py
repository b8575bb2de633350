"""Runs a program on a terminal of its own, and closes the terminal when its own input ends.

usage: terminal.py own|other COMMAND…

`own`: the terminal is that of the program's session, which is sent SIGHUP when it goes; `other`: it
is not, and only what is written fails. Prints the program's exit code, or the signal that killed it as a negative number.
"""

import fcntl
import os
import pty
import select
import sys
import termios

session, command = sys.argv[1], sys.argv[2:]
ours, theirs = pty.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    if session == "own":
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(theirs, fd)
    os.closerange(3, 256)
    os.execvp(command[0], command)
os.close(theirs)
while True:
    ready = select.select([ours, 0], [], [])[0]
    if 0 in ready and not os.read(0, 4096):
        break
    if ours in ready:
        try:
            os.read(ours, 65536)
        except OSError:
            break
os.close(ours)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status)
