mooring_test(scsi_commands SOURCES tests/unit/scsi_commands.c DEPENDS mooring_scsi)
