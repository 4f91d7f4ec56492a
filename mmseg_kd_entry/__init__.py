"""The command `mmseg-kd`.

It is a package beside `mmseg_kd`, whose import registers all of it and takes seconds: what needs
none of it, such as the list of commands or the process that watches the ranks of a training, does
without.
"""
