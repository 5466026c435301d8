"""What the units of a network do, for any classifier: values first, then plots, then files.

layers.py     conv and dense layers, and where each is seen to fire
occurrence.py how often, where and for which classes kernels fire; findings.py what follows from that
units.py      attributions of whole units
heatmaps.py   relevance of pixels for a class; rules.py, propagation.py what comes back through each op;
              norms.py batch normalisation merged for it
masking.py    a network with masks for inputs; walking.py its answers while units are masked
quality.py    what a heatmap is worth; judging.py every method on the same images
drift.py      how far a cut moved the explanations
figure.py     what a figure is; figures/ functions that return figures
plots.py      SVG and PNG of a figure; writing.py its files, and the page that shows them all
topmost.py    the samples that activate each kernel most; pooling.py maps and images made small
atlas.py      all that is known of the kernels of some layers; interactive.py its page, pages/ what that is made of
subject.py    what figures are made of, each computed once
catalogue.py  every figure by name, and what it needs
"""
