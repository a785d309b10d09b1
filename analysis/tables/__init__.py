"""The tables: pure functions from frames to data frames of numbers, and those frames in print.

Owns which tables a report has, and their order. A table must not know where runs are kept.
"""

from analysis import paper_numbers
from analysis.runs import Frames
from analysis.tables import detection, meta, paper_tables, past, precision, results
from analysis.tables.printing import Table


def every(frames: Frames) -> list[Table]:
    """What was measured here, how it departs from the paper, then what was counted, and the paper's other tables."""
    main = results.table_6(frames)
    return [
        results.with_footnotes("table_6", "Table 6, with the plain nets of Fig. 6", main),
        results.with_footnotes("shortcut_options", "Shortcut options", results.shortcut_table(frames)),
        results.measured_quantities(frames),
        results.selection(frames),
        results.negative_controls(frames),
        *past.tables(frames),
        *precision.tables(frames),
        meta.deviations(frames.finals),
        meta.protocol(),
        paper_tables.replications(main),
        meta.coverage(),
        paper_tables.cifar_architecture(),
        paper_tables.table_1(),
        *detection.detectors(frames),
        *detection.normalisation(frames),
        *(paper_tables.evaluated(number, frames) for number in paper_numbers.TABLES),
    ]
