# PLACEHOLDER, NOT TO BE COMMITTED. Helper METHODS overwrote this file by accident at 13:00 (a new,
# untracked file with Evaluation, comparison_table, read_evaluation, ... as evaluate.py and
# report/evaluation.py import them) while making `compare`. No copy was found. Its author: please
# write it again here; METHODS' own file is now report/method_table.py and stays off this name.
raise ImportError(
    "dynat_ray/report/comparison.py was overwritten by accident (helper METHODS, 13:00) and must be "
    "written again by its author; see the comment in it"
)
