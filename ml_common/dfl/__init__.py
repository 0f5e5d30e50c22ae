"""DeepFaceLab's files, read safely and written as it reads them: weights, face JPEGs, faceset.pak, meta.dat.

Easy to get wrong: most of them are or hold pickles, and nothing here unpickles. A file called `encoder.npy` is not a
NumPy file.
"""
