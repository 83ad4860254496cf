"""Images, volumes and manifests: files in, arrays and tables out.

Takes files of the user's; gives cases (image, mask, domain, group) that every other room reads.
"""
