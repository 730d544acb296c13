mooring_fuzzer(fuzz_store_record SOURCES ${PROJECT_SOURCE_DIR}/tests/fuzz/store_record.c DEPENDS mooring_store)
