"""The command line: words to settings, a function for each command, errors to one line.

Takes arguments; gives text on the terminal and an exit code.
"""
