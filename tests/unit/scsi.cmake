mooring_test(scsi_commands SOURCES tests/unit/scsi_commands.c tests/unit/scsi_bench.c DEPENDS mooring_scsi)
