"""Images, volumes and manifests: files in, arrays and tables out.

Takes folders, NIfTI volumes and CSV manifests. Gives cases (image, mask, domain, group), folds,
training crops and preprocessed arrays.
"""
