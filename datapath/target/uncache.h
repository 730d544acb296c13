/* Ending the sessions of a volume that are not served write-through; see uncache.c. */
#pragma once

#include "datapath/target/job.h"

int uncache_start(struct server *server, struct volume *volume, struct job **ret_job, struct error *err);
