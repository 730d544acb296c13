mooring_test(device_replay_log_test SOURCES tests/unit/device_replay_log_test.c DEPENDS mooring_device)
mooring_test(device_requests_test
  SOURCES tests/unit/device_requests_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_path_test
  SOURCES tests/unit/device_path_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_capacity_test
  SOURCES tests/unit/device_capacity_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_parts_test SOURCES tests/unit/device_parts_test.c DEPENDS mooring_device)
mooring_test(device_fuse_test
  SOURCES tests/unit/device_fuse_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_fuse_crash_test
  SOURCES tests/unit/device_fuse_crash_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_holder_test SOURCES tests/unit/device_holder_test.c DEPENDS mooring_device)
add_dependencies(device_holder_test mooring-holder)
target_compile_definitions(device_holder_test PRIVATE
  HOLDER_PROGRAM="$<TARGET_FILE:mooring-holder>" HOLDER_SOURCE="${PROJECT_SOURCE_DIR}/datapath/device/holder.c")
mooring_test(device_refused_test SOURCES tests/unit/device_refused_test.c DEPENDS mooring_fake_loop mooring_device)
add_dependencies(device_refused_test mooring-holder)
target_compile_definitions(device_refused_test PRIVATE HOLDER_PROGRAM="$<TARGET_FILE:mooring-holder>")
mooring_test(device_loop_test SOURCES tests/unit/device_loop_test.c DEPENDS mooring_device)
mooring_test(device_ublk_test
  SOURCES tests/unit/device_ublk_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)
mooring_test(device_uring_test
  SOURCES tests/unit/device_uring_test.c tests/unit/device_fake_session.c DEPENDS mooring_device)

# For tests/integration/test_device_outlives.py: what a mooring-device allocates while I/O runs.
add_library(count-malloc MODULE tests/integration/count_malloc.c)
target_compile_options(count-malloc PRIVATE -fno-sanitize=all -fno-builtin)
target_link_options(count-malloc PRIVATE -fno-sanitize=all)
set_target_properties(count-malloc PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# For tests/integration/test_node_upgrade.py: the same program under another version's name. What has the name is compiled
# anew, and comes before the libraries' own.
add_executable(mooring-device-next datapath/device/main.c datapath/device/attach_check.c datapath/device/state.c
               common/options.c)
target_include_directories(mooring-device-next PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_options(mooring-device-next PRIVATE -UMOORING_VERSION -DMOORING_VERSION="next-0")
target_link_libraries(mooring-device-next PRIVATE mooring_device)
set_target_properties(mooring-device-next PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# For tests/guest/inside_ublk.py: a mooring-device that dies at a step of its take-over.
add_library(die-at MODULE tests/guest/die_at.c)
target_compile_options(die-at PRIVATE -fno-sanitize=all)
target_link_options(die-at PRIVATE -fno-sanitize=all)
set_target_properties(die-at PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
