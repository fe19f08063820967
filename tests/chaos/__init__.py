"""Histories of kills: a seed decides what is submitted and what dies, real parts play it, the promises are judged.

`python -m tests.chaos --seed N` plays one. `schedule` is the history, `parts` what runs, `play` the driver, `judge` the
promises.
"""
