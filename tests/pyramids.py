"""Synthetic whole-slide images and annotation files in the layouts of public data sets."""

import json
import sqlite3

import numpy as np
import tifffile


def write_pyramid(path, picture, mpp=0.25, tile=(256, 256), levels=3):
    """Write an array (H, W, 3) as a pyramidal TIFF; in strips where ``tile`` is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": tile, "photometric": "rgb", "compression": "zlib"}
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            pixels = picture if level == 0 else _downsampled(picture, level)
            if mpp is not None:
                density = 1e4 / mpp / 2**level
                options["resolution"] = (density, density)
            writer.write(pixels, subfiletype=1 if level else 0, metadata=None, **options)
    return path


def _downsampled(picture, level):
    side = 2**level
    height, width = (length // side * side for length in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // side, side, width // side, side, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def write_coco(path, slides, classes):
    """Write polygons as COCO-style JSON, flat as in CATCH.

    ``slides`` maps names to (width, height, [(class, points)]).
    """
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    images, annotations = [], []
    for number, (name, (width, height, shapes)) in enumerate(slides.items(), 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for label, points in shapes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(label) + 1,
                    "segmentation": np.asarray(points).ravel().tolist(),
                }
            )
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


def write_sliderunner(path, slides, classes):
    """Write a SlideRunner database.

    ``slides`` maps names to (width, height, [(type, class, points)]).
    """
    db = sqlite3.connect(path)
    db.executescript(
        "CREATE TABLE Slides (uid INTEGER PRIMARY KEY, filename TEXT, width INTEGER,"
        " height INTEGER);"
        "CREATE TABLE Classes (uid INTEGER PRIMARY KEY, name TEXT, color TEXT);"
        "CREATE TABLE Annotations (uid INTEGER PRIMARY KEY, slide INTEGER, type INTEGER,"
        " agreedClass INTEGER, deleted INTEGER DEFAULT 0);"
        "CREATE TABLE Annotations_label (uid INTEGER PRIMARY KEY, person INTEGER, class INTEGER,"
        " annoId INTEGER);"
        "CREATE TABLE Annotations_coordinates (uid INTEGER PRIMARY KEY, coordinateX INTEGER,"
        " coordinateY INTEGER, slide INTEGER, annoId INTEGER, orderIdx INTEGER);"
    )
    insert = "INSERT INTO Classes (name) VALUES (?)"
    db.executemany(insert, [(name,) for name in classes])
    for number, (name, (width, height, shapes)) in enumerate(slides.items(), 1):
        db.execute("INSERT INTO Slides VALUES (?, ?, ?, ?)", (number, name, width, height))
        for kind, label, points in shapes:
            index = classes.index(label) + 1
            row = (number, kind, index)
            shape = db.execute(
                "INSERT INTO Annotations (slide, type, agreedClass) VALUES (?, ?, ?)", row
            ).lastrowid
            db.execute(
                "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, ?, ?)",
                (index, shape),
            )
            # in reverse, because only orderIdx defines the order
            for order, (x, y) in reversed(list(enumerate(points))):
                db.execute(
                    "INSERT INTO Annotations_coordinates (coordinateX, coordinateY, slide, annoId,"
                    " orderIdx) VALUES (?, ?, ?, ?, ?)",
                    (int(x), int(y), number, shape, order),
                )
    db.commit()
    db.close()
    return path
