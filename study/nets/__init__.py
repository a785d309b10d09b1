"""Nets: the paper's ResNets and plain nets, Faster R-CNN around them, and what is measured of their layers."""
