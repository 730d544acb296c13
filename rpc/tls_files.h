/* The PEM files of a struct rpc_tls, and whether they are others than when they were looked at last:
 * certificates are renewed while a program runs. */
#pragma once

#include <stdbool.h>

#include "rpc/rpc.h"

struct tls_files;

/* Copies the paths. */
int tls_files_new(struct tls_files **ret, const struct rpc_tls *tls, struct error *err);
struct tls_files *tls_files_free(struct tls_files *files); /* takes NULL, returns NULL */

const struct rpc_tls *tls_files_paths(const struct tls_files *files);

/* True the first time, and once after each change of any of the files (also when one went, or came back):
 * read them now. A change while they are being read is told of the next time. Three stat(2); any thread. */
bool tls_files_changed(struct tls_files *files);

/* They could not be used, for this reason: tls_files_changed() stays true until they are taken, since what
 * kept them from being read may end without a change of theirs. Said in the log once a reason. Any thread. */
void tls_files_refused(struct tls_files *files, const struct error *why);
void tls_files_taken(struct tls_files *files);
