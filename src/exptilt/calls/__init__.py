"""What `import exptilt as xt` offers: one function a file, on objects of a Python program as on files."""
