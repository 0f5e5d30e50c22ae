"""The domain: arrays in, arrays out. Geometry, masks, colour, detection, networks, training, merging, media.

Knows neither gRPC nor Ray nor the object store, reads no environment and no clock: everything a function needs is an argument. Images are
HWC BGR, points (x, y) in pixels with pixel centres at integer coordinates, matrices `a_to_b` are applied as b = M a.
"""
