foreach(part decide record scrub_ranges)
  mooring_test(store_${part}_test SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_${part}_test.c DEPENDS mooring_store)
endforeach()
# On a real XFS; skipped by name where none can be made.
foreach(part change make open pool threads)
  mooring_test(store_${part}_test
    SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_${part}_test.c ${PROJECT_SOURCE_DIR}/tests/unit/store_fixture.c
    DEPENDS mooring_store)
endforeach()
# The same, with commands on a loop.
foreach(part copy cut extents scrub scrub_threads snapshot thick)
  mooring_test(store_${part}_test
    SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_${part}_test.c ${PROJECT_SOURCE_DIR}/tests/unit/store_fixture.c
            ${PROJECT_SOURCE_DIR}/tests/unit/store_bench.c ${PROJECT_SOURCE_DIR}/tests/unit/store_io.c
    DEPENDS mooring_store)
endforeach()
mooring_test(store_faults_test
  SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_faults_test.c ${PROJECT_SOURCE_DIR}/tests/unit/store_fixture.c
          ${PROJECT_SOURCE_DIR}/tests/unit/store_strike.c ${PROJECT_SOURCE_DIR}/tests/unit/store_gate.c
  DEPENDS mooring_store)
mooring_test(store_flush_test
  SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_flush_test.c ${PROJECT_SOURCE_DIR}/tests/unit/store_fixture.c
          ${PROJECT_SOURCE_DIR}/tests/unit/store_strike.c
  DEPENDS mooring_store)
set_tests_properties(store_faults_test PROPERTIES TIMEOUT 300) # some thousand openings of a pool
