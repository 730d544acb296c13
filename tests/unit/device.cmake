mooring_test(device_replay_log_test SOURCES tests/unit/device_replay_log_test.c DEPENDS mooring_device)
mooring_test(device_requests_test
  SOURCES tests/unit/device_requests_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_path_test
  SOURCES tests/unit/device_path_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_parts_test SOURCES tests/unit/device_parts_test.c DEPENDS mooring_device)
mooring_test(device_fuse_test
  SOURCES tests/unit/device_fuse_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_fuse_crash_test
  SOURCES tests/unit/device_fuse_crash_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_holder_test SOURCES tests/unit/device_holder_test.c DEPENDS mooring_device)
add_dependencies(device_holder_test mooring-holder)
target_compile_definitions(device_holder_test PRIVATE
  HOLDER_PROGRAM="$<TARGET_FILE:mooring-holder>" HOLDER_SOURCE="${PROJECT_SOURCE_DIR}/datapath/device/holder.c")
mooring_test(device_ublk_test
  SOURCES tests/unit/device_ublk_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
