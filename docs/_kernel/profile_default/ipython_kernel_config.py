"""Kernels of executed pages: they speak only of errors, for the build to be quiet."""

get_config().IPKernelApp.log_level = "ERROR"  # noqa: F821
