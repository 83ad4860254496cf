"""Training, evaluation and the grid of runs, on one machine or a cluster.

Takes the settings of a study; gives its folder of runs, tables and page, and goes on after a kill.
"""
