"""What a machine can do: the doctor, the micro-batch that fits, a trace of ten steps."""
