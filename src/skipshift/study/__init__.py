"""Training, evaluation and the grid of runs of a study, on one machine or a cluster.

Takes the settings of a study; gives a folder of runs, tables and a report, and resumes when
interrupted.
"""
