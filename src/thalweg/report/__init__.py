"""From the folder of a run to one page that a person can read, print and hand on. Nothing here trains."""

from thalweg.report.page import write_report as write_report
