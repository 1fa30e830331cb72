/*-------------------------------------------------------------------------
 *
 * template.h
 *		Sentences with placeholders, as in evinbox.template.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_TEMPLATE_H
#define EVI_TEMPLATE_H

/* what takes the place of a key, or NULL */
typedef char *(*EviTemplateValue) (const char *key, void *arg);

extern bool evi_template_is_valid(const char *template);
extern char *evi_template_fill(const char *template, EviTemplateValue value, void *arg);

#endif							/* EVI_TEMPLATE_H */
