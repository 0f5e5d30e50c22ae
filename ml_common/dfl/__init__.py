"""DeepFaceLab's files, read safely: its weight files are pickles, and nothing here unpickles.

Easy to get wrong: a file called `encoder.npy` is not a NumPy file.
"""
