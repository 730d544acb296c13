foreach(part decide record)
  mooring_test(store_${part}_test SOURCES ${PROJECT_SOURCE_DIR}/tests/unit/store_${part}_test.c DEPENDS mooring_store)
endforeach()
