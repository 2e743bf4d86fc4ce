"""DICOM files to volumes: `headers` reads, `stacks` sorts, `study` lists, `pixels` decodes."""
