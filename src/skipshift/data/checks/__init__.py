"""What may be wrong with a manifest, one detector a module.

Takes a manifest; gives findings, each an error or a warning that names the files at fault.
"""
