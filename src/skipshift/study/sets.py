"""Cases of a run: of the manifest's test rows those of its own domains and of the others, read."""

from dataclasses import replace

import pandas as pd

from skipshift import shifts
from skipshift.data.manifest import Case, read_cases
from skipshift.data.splits import training_domains
from skipshift.names import parse_shift, seen_domain
from skipshift.study.grid import Run, Study


def test_rows(study: Study, run: Run) -> pd.DataFrame:
    """Test rows of the manifest; with domains left out, those trained on are renamed to seen."""
    tests = study.cases[study.cases["split"] == "test"]
    if not study.spec.leave_one_domain_out:
        return tests
    known = tests["domain"].isin(training_domains(study.folds, run.fold))
    return tests.assign(domain=tests["domain"].where(~known, tests["domain"].map(seen_domain)))


def home_rows(study: Study, run: Run) -> pd.DataFrame:
    """Test rows of the domains that a run was trained on."""
    tests, domains = test_rows(study, run), training_domains(study.folds, run.fold)
    if study.spec.leave_one_domain_out:
        domains = [seen_domain(domain) for domain in domains]
    return tests[tests["domain"].isin(domains)]


def read_rows(study: Study, rows: pd.DataFrame, whole: bool = False) -> list[Case]:
    """Read rows of the manifest, with the evaluation's crop or ``whole``."""
    spec = study.spec
    crop = None if whole else spec.evaluation_crop
    return list(read_cases(rows, len(spec.classes), crop, ignore=spec.ignore))


def shifted_cases(study: Study, run: Run, reference: list[Case], shifted: str) -> list[Case]:
    """Cases of a shift of the reference, or of a domain; none of one that was trained on."""
    if parse_shift(shifted):
        return [replace(case, image=shifts.apply(case.image, shifted)) for case in reference]
    tests = test_rows(study, run)
    rows = tests[tests["domain"] == shifted]
    return [] if rows.empty else read_rows(study, rows)
