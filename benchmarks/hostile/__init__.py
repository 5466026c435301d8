"""Files that mean harm, given to commands as a user would, each in a process of its own with limits.

    python -m benchmarks.hostile.rows                  every row of the table of bad inputs: tried, right
    python -m benchmarks.hostile --mutants 20000       mutants by kind of file: outcomes by exit code
    python -m benchmarks.hostile.others --python …     the same model files given to another tool

children.py runs a command; seeds.py makes sound files; mutants.py damages them; rows*.py are the table.
"""
