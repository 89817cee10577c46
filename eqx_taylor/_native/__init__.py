"""Taylor series of ODEs, and solves, as machine code, by LLVM."""
