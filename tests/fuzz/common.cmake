foreach(part text record)
  mooring_fuzzer(fuzz_common_${part} SOURCES ${PROJECT_SOURCE_DIR}/tests/fuzz/common_${part}.c
    DEPENDS mooring_common PkgConfig::jansson)
endforeach()
