import json,sys,numpy as np,re
d=json.load(open('/tmp/study/results/'+sys.argv[1]+'.json'))
def iou(c):
    u=c.sum(0)+c.sum(1)-np.diag(c); p=c.sum(1)>0
    return np.where(p,np.diag(c)/np.maximum(u,1),np.nan)*100
mi=lambda c:float(np.nanmean(iou(c)))
G=sorted({r['s'] for r in d}); 
for mn in ('city','camvid'):
  conds=list(dict.fromkeys(r['cond'] for r in d if r['model']==mn))
  for cond in conds:
    R=[r for r in d if r['model']==mn and r['cond']==cond]; T=sorted({r['t'] for r in R})
    by={(r['t'],r['s']):r for r in R}
    T=[t for t in T if all((t,s) in by for s in G)]
    pooled=lambda f:mi(sum(np.array(by[t,f(t)]['C']) for t in T))
    rules={'oracle/episode':lambda t:max(G,key=lambda s:mi(np.array(by[t,s]['C'])))}
    for n,sg in (('H',-1),('MI',1),('Hm',1),('flip',1),('scale',1),('jsf',-1),('jss',-1),('iouf',1),('ious',1),('Hmix',-1),('MImix',1)):
        rules[n]=lambda t,n=n,sg=sg:max(G,key=lambda s:sg*by[t,s][n])
    print(mn,cond,'fixed',' '.join(f'{s}:{pooled(lambda t:s):.1f}' for s in G))
    print('   rules',' '.join(f'{n}:{pooled(f):.1f}({np.mean([f(t) for t in T]):.2f})' for n,f in rules.items()))
    kl=[np.mean(by[t,0]['kl']) for t in T]; w2=[np.mean(by[t,0]['w2']) for t in T]; b=[rules['oracle/episode'](t) for t in T]
    print('   shift kl',f'{np.mean(kl):.2f}±{np.std(kl):.2f} med-layer {np.median([by[t,0]["kl"] for t in T]):.2f} w2 {np.mean(w2):.2f}±{np.std(w2):.2f}','corr(best,kl) %.2f w2 %.2f'%(np.corrcoef(b,kl)[0,1],np.corrcoef(b,w2)[0,1]))
