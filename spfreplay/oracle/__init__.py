"""The running kernel judges the engines: seeded random programs on both sides.

===============  ==========================================================
``programs``     what is run: operations, profiles, the generator
``kernel``       system calls, the files and words that programs use
``subject``      one process of a program, here or at the end of a socket
``tables``       what /proc says about it
``judge``        one program, operation by operation, on both sides
``runner``       one program in a process of its own, nothing gets out
``shrink``       the smallest program that still disagrees
``campaign``     many programs, over several workers, counted
``program_text`` a program as a trace in text form, and back
===============  ==========================================================
"""
