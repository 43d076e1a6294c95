"""From files of rows to shards that training opens.

readers      files to parts, parts to record batches
columns      an Arrow column to flat NumPy arrays, or to text
records      what one row is; faults: what is wrong with the values of a batch
indexes      what the whole-data checks need of a row: all but its values
audits       checks over all rows together; copies, labels: two kinds of them; fates: what they decide
splits       who trains, who chooses, who tests
shards       rows of a split in an order of their own, whatever the files
rejects      rows left out, with the reason
encoders     statistics of training rows to an Encoding
profiles     what the data looks like, for the report
preparation  the functions that workers run: scan a part, write a part
batches      shards opened for training
examples     a few raw rows of a prepared split
"""
