"""What ships inside every model: standard library, NumPy and TensorFlow only, nothing else of this project.

    encoding.py    raw rows to the numbers a network takes
    predictor.py   a frozen model and its encoding, answering raw rows
    seals.py       whether the files of a model are those that were written
    temperatures.py  how sure a model is, made weaker or stronger after training

Imports are relative, so that a copy of this folder works under any name.
"""
