"""From files that nobody has described to settings that run.

samples    some rows of some files
looks      what columns hold
gathers    rows of single steps become sequences; p0, p1, p2 one input
roles      what each column may be for
findings   what is wrong with the rows, or worth a look
holdouts   which rows to hold out, and why
proposals  settings, with the reason for each choice
trials     the same tried on all rows
drafts     the settings file; overviews: tables and JSON
"""
