"""From files of rows to shards that training opens.

readers      files to parts, parts to record batches
columns      an Arrow column to flat NumPy arrays, or to text
records      what one row is, and what is wrong with it
indexes      what the whole-data checks need of a row: all but its values
audits       checks over all rows together, and each row's fate
splits       who trains, who chooses, who tests
shards       rows of a split in an order of their own, whatever the files
encoders     statistics of training rows to an Encoding
profiles     what the data looks like, for the report
preparation  the three functions that workers run: scan a part, write a part, write a shard
batches      shards opened for training
"""
