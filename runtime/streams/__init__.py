"""Files of texts that are read, computed and written as a stream: readers, resumable output, and the command."""
